"""Files of a run: its folder, the names of folders, seconds and memory of steps, unfinished scores."""
