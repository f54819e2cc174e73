"""Reading and writing files of vectors that other programs understand."""
