"""The scan: where a layer runs another program, by its sizes, batches and dtypes."""
