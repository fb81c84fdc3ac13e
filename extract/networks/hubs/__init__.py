"""Networks of other libraries; each module has those of one prefix of `HUBS`."""
