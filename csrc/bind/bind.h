// The parts of the module, a file each.
#pragma once

#include <nanobind/nanobind.h>

namespace yolodata {

void bind_label_table(nanobind::module_& m);
void bind_plan_config(nanobind::module_& m);
void bind_recipe(nanobind::module_& m);   // one sample at a time: its recipe, and its picture
void bind_labels(nanobind::module_& m);   // the labels of one sample
void bind_engine(nanobind::module_& m);   // batches on native threads
void bind_device(nanobind::module_& m);   // what works on addresses, of device memory for one
void bind_filters(nanobind::module_& m);  // transforms of Albumentations on a device
void bind_random(nanobind::module_& m);   // random numbers of an epoch, and of Python
void bind_ingest(nanobind::module_& m);   // what packing asks for
void bind_jpeg(nanobind::module_& m);     // JPEG files to pixels

}  // namespace yolodata
