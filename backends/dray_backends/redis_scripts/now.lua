-- Returns the instant now, in seconds since 1970.
return text_of(clock())
