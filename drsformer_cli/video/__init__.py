"""Videos: read, restored and written with their sound and everything else that they hold.

`planning` names outputs, `reading` decodes frames, `timeline` continues times that begin again, `sequence` reads and
writes numbered images, `color` converts between the planes of a frame and RGB, `encoding` chooses how frames are
stored, `segments` keeps the encoded part of a video on disk, `muxing` joins it with the other streams of the input, and
`pipeline` connects them.

PyAV is needed only here: importing `options` and `formats` does not import it.
"""
