"""Published methods as they were published, and the search that they share."""
