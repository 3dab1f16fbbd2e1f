"""What a command of training is asked for: from names and files to a checked configuration.

:mod:`.settings` reads options and files into dictionaries and lays them over each other, :mod:`.classes` finds the
classes that they name, :mod:`.schema` says which settings there are and lets jsonargparse check them,
:mod:`.of_checkpoint` adds what a checkpoint brings along, :mod:`.help` shows all of it.
"""
