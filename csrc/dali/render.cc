// `fn.yolodata.render`: the renderer as an operator of NVIDIA DALI, on the CPU and on the GPU.
//
// Compiled on the user's machine against the DALI that is installed there (yolodata/dali): DALI
// promises no binary interface.
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "dali/pipeline/data/tensor.h"
#include "dali/pipeline/operator/checkpointing/stateless_operator.h"
#include "plan/serialize.h"
#include "render/render.h"
#include "render/validate.h"

namespace yolodata {
namespace {

// A recipe with its images; `plan` holds the masks.
struct Sample {
  Plan plan;
  RenderTask task;
};

// Recipes of the batch, checked against the batch's images.
template <typename Backend>
std::vector<Sample> make_samples(const dali::TensorList<Backend>& images,
                                 const dali::TensorList<dali::CPUBackend>& recipes) {
  const int count = recipes.num_samples();
  std::vector<Sample> samples(static_cast<std::size_t>(count));
  const auto refuse = [](int sample, const std::string& why) {
    throw std::invalid_argument("yolodata.render, sample " + std::to_string(sample) + ": " + why);
  };
  if (images.type() != DALI_UINT8 || recipes.type() != DALI_UINT8)
    throw std::invalid_argument("yolodata.render: images and recipes must be uint8");
  for (int i = 0; i < count; ++i) {
    auto& [plan, task] = samples[static_cast<std::size_t>(i)];
    try {
      plan = from_bytes(recipes.raw_tensor(i),
                        static_cast<std::size_t>(recipes.tensor_shape(i).num_elements()));
      validate(plan);
    } catch (const std::invalid_argument& error) {
      refuse(i, error.what());
    }
    task = {plan.recipe, {}};
    set_masks(plan, task.sources);
    for (int l = 0; l < task.recipe.layer_count; ++l)
      for (int t = 0; t < task.recipe.layers[l].tile_count; ++t) {
        const Tile& tile = task.recipe.layers[l].tiles[t];
        if (tile.image < 0 || tile.image >= images.num_samples())
          refuse(i, "image " + std::to_string(tile.image) + " is none of the batch's " +
                        std::to_string(images.num_samples()) +
                        "; a recipe counts the images of its own batch from 0");
        const int image = static_cast<int>(tile.image);
        const auto shape = images.tensor_shape(image);
        if (shape.sample_dim() != 3 || shape[2] != 3 || shape[0] != tile.height ||
            shape[1] != tile.width) {
          std::string got;
          for (int d = 0; d < shape.sample_dim(); ++d)
            got += (d ? " x " : "") + std::to_string(shape[d]);
          refuse(i, "image " + std::to_string(tile.image) + " must be " +
                        std::to_string(tile.height) + " x " + std::to_string(tile.width) +
                        " x 3 (HWC, RGB), as the recipe was made for, got " + got);
        }
        task.sources.layers[l].images[t] = {
            static_cast<const std::uint8_t*>(images.raw_tensor(image)), tile.width, tile.height};
      }
  }
  return samples;
}

template <typename Backend>
class Render : public dali::StatelessOperator<Backend> {
 public:
  explicit Render(const dali::OpSpec& spec) : dali::StatelessOperator<Backend>(spec) {
    const auto layout = spec.GetArgument<std::string>("layout");
    if (layout != "CHW" && layout != "HWC")
      throw std::invalid_argument("yolodata.render: layout must be CHW or HWC, got " + layout);
    channels_last_ = layout == "HWC";
    if (std::is_same_v<Backend, dali::GPUBackend> && std::string("none") == cuda_build())
      throw std::runtime_error(
          "yolodata.render: this operator was compiled without CUDA and renders on the CPU only; "
          "install a CUDA toolkit (and set CUDA_HOME), or nvidia-cuda-nvcc, nvidia-cuda-runtime "
          "and nvidia-cuda-cccl, and start again: yolodata.dali.load() will compile it anew");
  }

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>& outputs, const dali::Workspace& ws) override {
    samples_ = make_samples(ws.Input<Backend>(0), ws.Input<dali::CPUBackend>(1));
    dali::TensorListShape<> shape(static_cast<int>(samples_.size()), 3);
    for (int i = 0; i < shape.num_samples(); ++i) {
      const Recipe& recipe = this->recipe(i);
      const dali::TensorShape<3> chw{3, recipe.height, recipe.width};
      const dali::TensorShape<3> hwc{recipe.height, recipe.width, 3};
      shape.set_tensor_shape(i, channels_last_ ? hwc : chw);
    }
    outputs = {{shape, DALI_UINT8}};
    return true;
  }

  void RunImpl(dali::Workspace& ws) override;

 private:
  Output output(void* data) const { return {data, PixelFormat::kUint8, channels_last_}; }

  const Recipe& recipe(int i) const { return samples_[static_cast<std::size_t>(i)].plan.recipe; }

  bool channels_last_ = false;
  std::vector<Sample> samples_;
};

template <>
void Render<dali::CPUBackend>::RunImpl(dali::Workspace& ws) {
  auto& pictures = ws.Output<dali::CPUBackend>(0);
  pictures.SetLayout(channels_last_ ? "HWC" : "CHW");
  auto& pool = ws.GetThreadPool();
  for (int i = 0; i < pictures.num_samples(); ++i) {
    auto* to = static_cast<std::uint8_t*>(pictures.raw_mutable_tensor(i));
    pool.AddWork([this, i, to](int) {
      const RenderTask& task = samples_[static_cast<std::size_t>(i)].task;
      if (channels_last_) {
        render_emulated(&task, 1, task.recipe.width, task.recipe.height, output(to));
      } else {
        render_cpu(task.recipe, task.sources, to);
      }
    });
  }
  pool.RunAll();
}

template <>
void Render<dali::GPUBackend>::RunImpl(dali::Workspace& ws) {
  auto& pictures = ws.Output<dali::GPUBackend>(0);
  pictures.SetLayout(channels_last_ ? "HWC" : "CHW");
  std::size_t bytes = samples_.size() * sizeof(RenderTask);
  for (Sample& sample : samples_)
    bytes = move_masks(sample.plan, nullptr, bytes, 0, sample.task.sources);
  // Memory in a stream's order may be handed out before that stream is done with it. The host
  // writes at once, so it asks in its own order; what it wrote, the stream frees after reading.
  dali::Tensor<dali::CPUBackend> host;
  host.Resize({static_cast<std::int64_t>(bytes)}, DALI_UINT8);
  dali::Tensor<dali::GPUBackend> device;
  device.set_order(ws.stream());
  device.Resize({static_cast<std::int64_t>(bytes)}, DALI_UINT8);
  auto* const memory = static_cast<std::uint8_t*>(host.raw_mutable_data());
  const auto address = reinterpret_cast<std::uintptr_t>(device.raw_mutable_data());
  std::size_t task = 0, masks = samples_.size() * sizeof(RenderTask);
  for (Sample& sample : samples_) {
    masks = move_masks(sample.plan, memory, masks, address, sample.task.sources);
    std::memcpy(memory + task, &sample.task, sizeof(RenderTask));
    task += sizeof(RenderTask);
  }
  device.Copy(host, ws.stream());
  host.set_order(ws.stream(), false);
  const auto* tasks = reinterpret_cast<const RenderTask*>(device.data<std::uint8_t>());
  // Pictures of one size that lie side by side, which is all of them as a rule, take one launch.
  const auto place = [&](int i) {
    return static_cast<std::uint8_t*>(pictures.raw_mutable_tensor(i));
  };
  const int count = pictures.num_samples();
  for (int first = 0, end = 0; first < count; first = end) {
    const Recipe& recipe = this->recipe(first);
    const auto size = std::int64_t{3} * recipe.width * recipe.height;
    const auto goes_on = [&](int i) {
      const Recipe& next = this->recipe(i);
      return next.width == recipe.width && next.height == recipe.height &&
             place(i) == place(first) + (i - first) * size;
    };
    for (end = first + 1; end < count && goes_on(end);) ++end;
    render_cuda(tasks + first, end - first, recipe.width, recipe.height, output(place(first)),
                ws.stream());
  }
}

}  // namespace

DALI_SCHEMA(yolodata__Render)
    .DocStr(R"(Renders augmented pictures from the images of the batch.

All that the recipe of a sample says, from the mosaic to the flips, happens in one pass.
Recipes come from ``yolodata.dali.batch_recipes``; they name images by their place in the batch.)")
    .NumInput(2)
    .InputDevice(1, dali::InputDevice::CPU)
    .InputDox(0, "images", "TensorList", "Decoded images, uint8, HWC, RGB.")
    .InputDox(1, "recipes", "TensorList of uint8, CPU", "One recipe a sample, as bytes.")
    .NumOutput(1)
    .AddOptionalArg("layout", "Layout of the pictures: CHW or HWC.", std::string("CHW"));

DALI_REGISTER_OPERATOR(yolodata__Render, Render<dali::CPUBackend>, dali::CPU);
DALI_REGISTER_OPERATOR(yolodata__Render, Render<dali::GPUBackend>, dali::GPU);

}  // namespace yolodata
