"""Made-up requests to a real agent."""
