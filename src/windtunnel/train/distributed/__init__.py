"""Several processes that train one model, on torch's own means, under torchrun.

Every process builds the same model and the same batches. Of each micro-batch, process r of n takes
rows r, r + n, …; dropout is that of the rows' places in the whole; the gradients are added up. So n
processes do what one does, up to the order of sums.
"""
