"""EpiBench's runner, in the order of its work: queries, engines and the processes they run in, answers, load, report."""
