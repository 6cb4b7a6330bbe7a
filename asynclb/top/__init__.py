"""`asynclb top`: what passes now, on a terminal.

    API --> Look (state, counters, clients) --> two of them --> rates --> rows --> lines of text --> terminal
    keys --> Ui (view, place, order, filter)  ---------------------^

Laws:
  1. `model`, `view` and `keys` are pure; `terminal` and `run` do I/O and decide nothing.
  2. The first line says what is wrong, or that all is well; what is wrong stands before what is not.
  3. A screen fits the terminal that there is, from 40x8; what does not fit is left out from the right.
"""
