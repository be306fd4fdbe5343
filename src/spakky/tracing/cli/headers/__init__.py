"""What is in the headers of a message, and all that is wrong with it; nothing is printed in here.

The rest of the library stops at the first fault, as it only has to know whether a header can be used. Here
all of them are looked for. Whether a header is taken is still asked of the library itself.
"""
