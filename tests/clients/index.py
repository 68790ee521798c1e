"""Prints values of quickstart.json for the shell: index.py FILE KEY... or index.py FILE device N KEY..."""
import json
import sys

index = json.load(open(sys.argv[1]))
keys = sys.argv[2:]
if keys[0] == "device":
    index, keys = index["devices"][int(keys[1])], keys[2:]
for key in keys:
    print(index[key])
