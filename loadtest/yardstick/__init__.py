"""What `loadtest/compare` measures with.

One run goes like this: `command` reads the command line and finds the programs (`proxies`); for each profile (`profiles`),
`bench` makes what its requests need (`work`), starts the proxies from templates (`templates`, `conf/`), and goes through the
rounds: `checks` compares what each proxy answers, `generators` loads it, and the processes' own accounts say what it cost
(`servers`). `report` makes tables and verdicts of the samples, `plot` a picture.

`handshakes` is a program of its own, which `generators` starts; `connections` holds many idle connections, also for
`loadtest/idle`; `servers` and `templates` serve the other load tests too.

A profile more is one entry in `profiles.PROFILES`, and for each proxy that takes part a template `conf/PROXY/SETUP.*`. If its
requests need something new, that is a function in `work.SETUPS`; what makes its work equal is a function in `checks.CHECKS`.
"""
