#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bind/arrays.h"
#include "bind/bind.h"
#include "core/mersenne.h"
#include "core/permute.h"
#include "core/rng.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace yolodata {

void bind_random(nb::module_& m) {
  m.def(
      "permute",
      [](const Positions& positions, std::uint64_t n, std::uint64_t seed, std::uint32_t epoch) {
        const Permutation order(n, seed, epoch);
        std::vector<std::int64_t> result;
        result.reserve(positions.shape(0));
        for (std::size_t i = 0; i < positions.shape(0); ++i) {
          const std::int64_t position = positions.data()[i];
          if (position < 0 || static_cast<std::uint64_t>(position) >= n)
            throw std::out_of_range("position " + std::to_string(position) + " is not in 0.." +
                                    std::to_string(n) + " (exclusive)");
          result.push_back(static_cast<std::int64_t>(order(static_cast<std::uint64_t>(position))));
        }
        const std::size_t count = result.size();
        return to_numpy(std::move(result), {count});
      },
      "positions"_a, "n"_a, "seed"_a, "epoch"_a);
  m.attr("MOST_LIMITS") = Mersenne::kNumbers;
  m.def(
      "draws_below",
      [](const Column<std::uint32_t>& seeds, const Column<double>& limits) {
        require(limits.shape(0) <= Mersenne::kNumbers, "there are too many limits");
        std::vector<bool> below(seeds.shape(0));
        {
          const nb::gil_scoped_release release;
          for (std::size_t i = 0; i < below.size(); ++i)
            below[i] = draws_below(seeds.data()[i], limits.data(), limits.shape(0));
        }
        return below;
      },
      "seeds"_a, "limits"_a,
      "For each seed, whether `random.Random(seed).random()` gives a number below its limit: the "
      "first call below the first limit, the second below the second, ...");
  m.def(
      "philox",
      [](const std::array<std::uint32_t, 4>& counter, const std::array<std::uint32_t, 2>& key) {
        return philox(counter, key);
      },
      "counter"_a, "key"_a);
}

}  // namespace yolodata
