"""Graph learning on behaviour data: encoders, LSTTM, training and evaluation on temporal user-item graphs."""

__version__ = "0.1.0"
