"""What is asked of a model's files, and how pictures and questions become its input. Knows rows."""
