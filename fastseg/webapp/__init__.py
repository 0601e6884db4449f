"""`fastseg app`: look through data, train, predict and compare in the browser.

A page is one module in `api`, with its template and its script of the same name. It calls the same
functions as the command line does. `guard` decides who may ask, `http` how requests become calls,
`workspace` holds what the pages share.
"""
