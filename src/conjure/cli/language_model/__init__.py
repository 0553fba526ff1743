"""What the language-model commands do and show; imported when one of them is carried out."""
