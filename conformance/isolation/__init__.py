"""One layer cannot harm the run or its neighbours."""
