"""Layer 0: frozen records and the error tree shared by every other layer. Standard library only."""
