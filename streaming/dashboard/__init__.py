"""The live page: a stream's topics and its processes' metrics, read from a distance and shown in a browser.

It reads Kafka and Prometheus endpoints and nothing else, is a member of no group, writes nothing, and keeps the newest
of everything only, so that it can run anywhere and beside anything:

    reader.py     the topics, from their ends on          ─┐
    endpoints.py  the metrics, every few seconds          ─┤▶ board.py ─▶ server.py ─▶ page/ in the browser
                                                            └ series, classes, scores, versions, letters, vitals
"""
