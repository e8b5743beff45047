"""A leaf's update as a graph, and how graphs are cut, placed and kept."""
