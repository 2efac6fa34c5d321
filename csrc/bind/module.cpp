// Python's view of the core: types, ownership and the GIL; no logic.
#include <nanobind/nanobind.h>

#include "bind/bind.h"
#include "core/instruction_set.h"
#include "plan/recipe.h"
#include "render/render.h"

NB_MODULE(_native, m) {
  using namespace yolodata;
  nanobind::set_leak_warnings(false);  // a loader that is open when the interpreter ends is no leak
  m.doc() = "Native core of yolodata: plan and render.";
  m.attr("FILL") = kFill;
  m.def("cuda_build", &cuda_build);
  m.def("instruction_set", [] { return name_of(instruction_set()); });
  bind_label_table(m);
  bind_plan_config(m);
  bind_recipe(m);
  bind_labels(m);
  bind_engine(m);
  bind_device(m);
  bind_filters(m);
  bind_random(m);
  bind_ingest(m);
  bind_jpeg(m);
}
