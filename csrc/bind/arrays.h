// Arrays that come from Python and go there, and what is demanded of them.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace yolodata {

namespace nb = nanobind;

template <typename T>
using Column = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Table = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Keypoints = nb::ndarray<const float, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Positions = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Keeps arrays alive; letting go of the last one takes the GIL by itself.
template <typename... T>
std::shared_ptr<void> keep(const T&... owners) {
  return std::make_shared<std::tuple<T...>>(owners...);
}

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Memory that holds objects of a type, whose name is for messages.
template <typename T>
T* aligned(void* memory, const char* name) {
  if (reinterpret_cast<std::uintptr_t>(memory) % alignof(T) != 0)
    throw std::invalid_argument(std::string("memory for ") + name + " must be aligned to " +
                                std::to_string(alignof(T)) + " bytes");
  return static_cast<T*>(memory);
}

// Gives a vector to NumPy, without a copy.
template <typename T>
nb::ndarray<nb::numpy, T> to_numpy(std::vector<T> values,
                                   std::initializer_list<std::size_t> shape) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T>(owned->data(), shape, owner);
}

}  // namespace yolodata
