"""What the API server and the web page share: checks of requests, errors, streams, shutdown, generation."""
