# Runs on R's side of the benchmark: reads a count, sends that many no-op tasks one by one, collects and checks them.
workers <- as.integer(commandArgs(trailingOnly = TRUE)[[1L]])
invisible(mirai::daemons(workers))
input <- file("stdin", open = "r")
while (length(line <- readLines(input, n = 1L)) == 1L) {
  numbers <- seq_len(as.integer(line))
  tasks <- lapply(numbers, function(number) mirai::mirai(value, value = number))
  values <- vapply(tasks, function(task) task[], integer(1L))
  cat(if (identical(values, numbers)) "done\n" else "wrong\n")
  flush(stdout())
}
invisible(mirai::daemons(0L))
