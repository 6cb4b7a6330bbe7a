"""The packet view: what a rule receives and sends, as a stream that tcpdump and Wireshark read.

    taps: a packet socket with a filter in the kernel --> scope: is it the rule's, and what becomes of it --> pcapng

Laws:
  1. A capture holds nothing up: it has a socket of its own, and what its reader does not take is dropped and counted in
     the file (if_drop of the interface statistics). Only frames of XDP take another way meanwhile, by tc.
  2. A comment says what the tables and the flows answer when the frame is read, which is microseconds after the
     datapath met it.
"""
