"""Text alone: cuts, words, and what can be stored; knows neither vectors nor files."""
