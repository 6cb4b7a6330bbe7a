"""The status page at `/`: one page of files, fed by one stream of frames.

    Status, counters --> picture (what stands there)  --+
                     --> rates (what passes)            +--> frame, once a second --> every listener
                     --> verdict (what is wrong)      --+
    events           --> the last 200                 --+

Laws:
  1. A frame is made once, however many listen, and none is made while nobody does.
  2. A listener gets everything first and then what has changed; one that does not keep up is dropped, and comes again.
  3. The page needs nothing from elsewhere and runs no script but its own files (Content-Security-Policy).
  4. What fails here ends the page, never the forwarding.
"""
