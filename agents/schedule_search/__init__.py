"""Schedule search: a black-box search for K numbers that knows nothing but the returns of whole episodes.

Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): many short runs from different starts, the best
third of them on, the winner to the end. The short runs are PGPE (Sehnke et al. 2010) with antithetic pairs, and ranks
for returns; the later ones CMA-ES (Hansen 2016, arXiv 1604.00772). Candidates are compared on common random numbers:
the same initial noises for all. Which noises these are is importance sampling, by what each costs. Of learned
solvers, half of the runs that go on begin elsewhere, where no short run leads (see ``MENDED_FIRST_STEP``). There is
no policy and no critic, and nothing of an episode is seen but its return.
"""
