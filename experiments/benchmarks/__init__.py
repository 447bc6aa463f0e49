"""How fast kpeft trains beside Keras and Hugging Face PEFT on the same machine: see speed.py."""
