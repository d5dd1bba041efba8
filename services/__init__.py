"""What runs for a long time: the evaluation engine and pool, the sweep API, the tracking server."""
