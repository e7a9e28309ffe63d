"""``megadape doctor``: what of this machine and this installation is not fit for training, and what mends it.

``base`` says what a check is, ``registry`` lists them, one file holds each group. ``worker`` is the process in which
they run, ``examination`` watches over it: a check that crashes, kills its process or never ends is a finding, too.
Nothing here imports torch before a check needs it: the doctor also comes where torch does not start.
"""
