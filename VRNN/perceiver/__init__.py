"""The quickstart's place for the Perceiver."""
