"""HTML pages for people: ``report`` about runs, ``gallery`` about what a model makes of images.

A page is one file that fetches nothing: pictures are inside it as data, curves and points as SVG, and the one script it
has is named by its hash, so that a browser runs no other. Whatever comes from files is escaped.
"""
