"""Many workers, one run folder: shares of a run, who starts them (processes, Ray, schedulers), what is seen of them."""
