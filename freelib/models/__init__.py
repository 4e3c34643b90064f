"""Pre-trained models: reading, checking and pre-training them, their networks and their images."""
