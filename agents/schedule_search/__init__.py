"""Schedule search: the best plain list, found from whole episodes, without a policy and without a critic.

``LeastSquaresSearch`` is for solvers that follow the ODE: the final error is a sum of squares, and differences of
final samples between nearby schedules give Gauss-Newton steps. ``EvolutionSearch`` knows nothing but returns, so that
it takes stochastic solvers and any reward. Both are successive halving (Jamieson and Talwalkar 2016,
arXiv 1502.07943): many short descents from different starts, the best third of them on, the winner to the end.
Schedules are compared on common random numbers: the same initial noises for all. Which noises the winner meets is
importance sampling, by what each costs. With learned solvers some descents begin elsewhere, where none leads from the
base schedule (see ``MENDED_FIRST_STEP``).
"""

from agents.schedule_search.evolution import EvolutionOptions
from agents.schedule_search.least_squares import LeastSquaresOptions

SearchOptions = EvolutionOptions | LeastSquaresOptions
