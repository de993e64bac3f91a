"""Models of texts: raw text in, a class and its scores out."""
