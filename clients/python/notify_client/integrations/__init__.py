"""Task queues whose jobs report themselves: a module for each, none imported unless asked for."""
