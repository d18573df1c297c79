"""One pytest run: options to items, items to cells, cells to the controller."""
