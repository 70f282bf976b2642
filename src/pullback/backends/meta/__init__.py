"""Arrays of shapes without numbers, and the count of what is done to them; imported when one is asked for."""
