#include <nanobind/stl/string.h>

#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "bind/bind.h"
#include "plan/plan_config.h"

namespace nb = nanobind;

namespace yolodata {
namespace {

constexpr const char* kModes[] = {"flip", "mixup"};  // by CopyPasteMode

[[noreturn]] void refuse(const char* name, const std::string& allowed, nb::handle given) {
  const std::string got = std::string(", got ") + nb::repr(given).c_str();
  throw nb::type_error((std::string(name) + " must be " + allowed + got).c_str());
}

// The type of a setting, in Python's words.
template <typename T>
constexpr const char* type_name() {
  if constexpr (std::is_same_v<T, bool>) return "bool";
  if constexpr (std::is_same_v<T, std::int32_t>) return "int";
  if constexpr (std::is_same_v<T, double>) return "float";
  return "str";
}

template <typename T>
void read(const char* name, nb::handle given, T& value) {
  if (!nb::try_cast(given, value)) refuse(name, type_name<T>(), given);
}

void read(const char* name, nb::handle given, CopyPasteMode& mode) {
  std::string word;
  if (nb::try_cast(given, word))
    for (const CopyPasteMode each : {CopyPasteMode::kFlip, CopyPasteMode::kMixup})
      if (word == kModes[static_cast<int>(each)]) {
        mode = each;
        return;
      }
  refuse(name, "flip or mixup", given);
}

template <typename T>
nb::object shown(const T& value) {
  return nb::cast(value);
}

nb::object shown(CopyPasteMode mode) { return nb::cast(kModes[static_cast<int>(mode)]); }

// Every setting must be given, by its name, and nothing else.
PlanConfig make(const nb::kwargs& given) {
  PlanConfig config{};
  std::vector<std::string> names;
  each_setting([&](const char* name, auto member) {
    if (!given.contains(name))
      throw nb::type_error((std::string("PlanConfig lacks the setting ") + name).c_str());
    read(name, given[name], config.*member);
    names.push_back(name);
  });
  for (const auto [key, value] : given)
    if (std::find(names.begin(), names.end(), nb::cast<std::string>(key)) == names.end())
      throw nb::type_error(
          (std::string("PlanConfig has no setting ") + nb::str(key).c_str()).c_str());
  validate(config);
  return config;
}

template <typename T>
T type_of(T PlanConfig::*);

// The signature, for the stub.
std::string signature() {
  std::string text = "def __init__(self, *";
  each_setting([&](const char* name, auto member) {
    text += std::string(", ") + name + ": " + type_name<decltype(type_of(member))>();
  });
  return text + ") -> None";
}

}  // namespace

void bind_plan_config(nb::module_& m) {
  nb::class_<PlanConfig> config(
      m, "PlanConfig", "Settings of the planner, checked once. AugmentConfig.to_native makes one.");
  const std::string constructor = signature();
  config.def(
      "__init__",
      [](PlanConfig* self, const nb::kwargs& given) { new (self) PlanConfig(make(given)); },
      nb::sig(constructor.c_str()));
  each_setting([&](const char* name, auto member) {
    using T = decltype(type_of(member));
    const std::string getter = std::string("def ") + name + "(self) -> " + type_name<T>();
    config.def_prop_ro(
        name, [member](const PlanConfig& self) { return shown(self.*member); },
        nb::sig(getter.c_str()));
  });
}

}  // namespace yolodata
