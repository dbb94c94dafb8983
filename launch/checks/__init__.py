"""What ``visuomotor doctor`` looks at, a theme a file; ``examination`` holds what they share."""
