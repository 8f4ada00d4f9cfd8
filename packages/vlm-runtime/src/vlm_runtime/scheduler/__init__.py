"""Decides, with integers alone, which sequences run next. Imports neither mlx nor numpy."""

from .scheduler import Admission, Chunk, Limits, Plan, QueueFull, Scheduler, Ticket, TooLarge

__all__ = ["Admission", "Chunk", "Limits", "Plan", "QueueFull", "Scheduler", "Ticket", "TooLarge"]
