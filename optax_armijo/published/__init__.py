"""Published line searches: seven functions, `methods`, over one step, `step`."""
