#include "plan/plan.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <utility>

#include "core/geometry.h"
#include "core/permute.h"
#include "core/simd.h"
#include "plan/copy_paste.h"
#include "plan/objects.h"

namespace yolodata {

// Bytes that a single-precision gain turns into something else than the exact one does.
YD_TARGETS static int disagreements(double exact, float candidate) {
  int wrong = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const double product = byte * exact;
    const float rounded = static_cast<float>(byte) * candidate;
    wrong += static_cast<int>(product < 255.0 ? product : 255.0) !=
             static_cast<int>(rounded < 255.0f ? rounded : 255.0f);
  }
  return wrong;
}

namespace {

// The single-precision gain that acts like the exact one, where the nearest or a neighbour of it
// does: products that fall on whole numbers (ten times 0.1) depend on the last bit.
float gain(double exact) {
  const float nearest = static_cast<float>(exact);
  if (!(exact >= 0)) return nearest;  // for `validate` to refuse
  if (disagreements(exact, nearest) == 0) return nearest;
  for (const float towards : {0.0f, 2.0f * nearest + 1.0f}) {
    const float candidate = std::nextafter(nearest, towards);
    if (disagreements(exact, candidate) == 0) return candidate;
  }
  return nearest;
}

// Named slots of a sample's randomness. The numbers are part of the stream: only ever append.
// Slots of a layer are counted from layer * kLayerStride. 0xFFFF is Albumentations'.
enum Slot : std::uint32_t {
  kMosaic,
  kMosaicCentre,
  kPartners,
  kAffine,
  kPaste,
  kLayerStride = 16,
  kMixup = kLayerStride * 3,
  kMixupRatio,
  kCutmix,
  kCutmixAreas,
  kHsv,
  kFlip,
  kBgr,
  kPasteLayers = 128,  // what is pasted from: as many further as the layer it is pasted onto
};

class Planner {
 public:
  Planner(const PlanConfig& config, const LabelTable& table, const SampleId& id)
      : config_(config), table_(table), id_(id) {}

  Plan run() {
    add_layer(image_at(config_, table_.images, id_), 0);
    if (draws(kMixup).unit(0) < config_.mixup) mixup();
    if (draws(kCutmix).unit(0) < config_.cutmix) cutmix();
    colour();
    recipe_.finish.flipud = draws(kFlip).unit(0) < config_.flipud;
    recipe_.finish.fliplr = draws(kFlip).unit(1) < config_.fliplr;
    recipe_.finish.bgr = draws(kBgr).unit(0) < config_.bgr;
    return std::move(plan_);
  }

 private:
  Draws draws(std::uint32_t slot) const { return {id_, slot}; }

  // A picture to mix with: from the whole dataset, or from the reuse window of this position.
  std::int64_t partner(const Draws& random, std::uint32_t i) const {
    const std::uint64_t images = static_cast<std::uint64_t>(table_.images);
    if (config_.window == 0) return static_cast<std::int64_t>(random.below(i, images));
    const std::uint64_t streams = static_cast<std::uint64_t>(config_.streams);
    const std::uint64_t stream = id_.position % streams;
    const std::uint64_t turn = id_.position / streams;
    const std::uint64_t length = (images - stream + streams - 1) / streams;
    const std::uint64_t window =
        std::min<std::uint64_t>(static_cast<std::uint64_t>(config_.window), length);
    const std::uint64_t first = turn + 1 > window ? turn + 1 - window : 0;
    SampleId other = id_;
    other.position = (first + random.below(i, window)) * streams + stream;
    return image_at(config_, table_.images, other);
  }

  // Whether objects have outlines that can be pasted.
  bool pastes() const {
    return config_.copy_paste > 0 && table_.has_outlines() && table_.outline_points > 0;
  }

  // A layer whose slots begin at `slot`, and what is pasted onto it. Returns its number.
  int add_layer(std::int64_t image, std::uint32_t slot) {
    const int which = add_canvas(image, slot);
    if (pastes() && config_.copy_paste_mode == CopyPasteMode::kFlip)
      paste(plan_, which, kMirror, config_.copy_paste, table_);
    warp(recipe_.layers[which], draws(slot + kAffine));
    if (pastes() && config_.copy_paste_mode == CopyPasteMode::kMixup)
      paste_from_another(which, slot);
    return which;
  }

  void paste_from_another(int onto, std::uint32_t slot) {
    const Draws random = draws(slot + kPaste);
    if (layer_objects(plan_, onto, table_).list.empty() || !(random.unit(0) < config_.copy_paste))
      return;
    const int from = add_canvas(partner(random, 1), slot + kPasteLayers);
    warp(recipe_.layers[from], draws(slot + kPasteLayers + kAffine));
    if (!paste(plan_, onto, from, config_.copy_paste, table_)) drop_layers(from);
  }

  void drop_layers(int first) {
    for (int i = first; i < recipe_.layer_count; ++i) recipe_.layers[i] = Layer{};
    recipe_.layer_count = first;
    std::erase_if(plan_.pastes, [first](const Paste& paste) { return paste.layer >= first; });
  }

  // A mosaic or a single picture.
  int add_canvas(std::int64_t image, std::uint32_t slot) {
    const int which = recipe_.layer_count++;
    Layer& layer = recipe_.layers[which];
    layer.paste_from = kNoLayer;
    if (draws(slot + kMosaic).unit(0) < config_.mosaic) {
      std::int64_t images[kMaxTiles];
      images[0] = image;
      const Draws partners = draws(slot + kPartners);
      for (int i = 1; i < config_.mosaic_grid; ++i)
        images[i] = partner(partners, static_cast<std::uint32_t>(i - 1));
      if (config_.mosaic_grid == 4)
        mosaic4(layer, images, draws(slot + kMosaicCentre));
      else
        mosaic9(layer, images);
    } else {
      layer.tile_count = 1;
      Tile& tile = layer.tiles[0];
      tile = picture(image);
      tile.x2 = layer.width = tile.width;
      tile.y2 = layer.height = tile.height;
    }
    return which;
  }

  Tile picture(std::int64_t image) const {
    Tile tile{};
    tile.image = image;
    tile.width = static_cast<std::int32_t>(table_.width[image]);
    tile.height = static_cast<std::int32_t>(table_.height[image]);
    return tile;
  }

  // Covers the part of the canvas that the picture at (x0, y0) shares with it.
  static void place(Layer& layer, Tile tile, int x0, int y0, int canvas) {
    tile.x0 = x0;
    tile.y0 = y0;
    tile.x1 = std::clamp(x0, 0, canvas);
    tile.y1 = std::clamp(y0, 0, canvas);
    tile.x2 = std::clamp(x0 + tile.width, tile.x1, canvas);
    tile.y2 = std::clamp(y0 + tile.height, tile.y1, canvas);
    layer.tiles[layer.tile_count++] = tile;
  }

  // Four pictures meet at a random point of a canvas of twice the size (YOLOv4, Bochkovskiy et al.
  // 2020; the layout is Ultralytics' data/augment.py).
  void mosaic4(Layer& layer, const std::int64_t* images, const Draws& random) const {
    const int s = config_.imgsz;
    const int canvas = layer.width = layer.height = 2 * s;
    const double border = (s + 1) / 2;
    const int yc = static_cast<int>(random.uniform(0, border, 2 * s - border));
    const int xc = static_cast<int>(random.uniform(1, border, 2 * s - border));
    for (int i = 0; i < 4; ++i) {
      const Tile tile = picture(images[i]);
      const bool right = i % 2 == 1, below = i >= 2;
      place(layer, tile, right ? xc : xc - tile.width, below ? yc : yc - tile.height, canvas);
    }
  }

  // Nine pictures spiral around the first; the middle 2s x 2s of the 3s x 3s canvas is kept.
  void mosaic9(Layer& layer, const std::int64_t* images) const {
    const int s = config_.imgsz;
    const int canvas = layer.width = layer.height = 2 * s;
    const int border = (s + 1) / 2;
    const Tile centre = picture(images[0]);
    const int w0 = centre.width, h0 = centre.height;
    int wp = 0, hp = 0;  // size of the previous picture
    for (int i = 0; i < 9; ++i) {
      const Tile tile = picture(images[i]);
      const int w = tile.width, h = tile.height;
      int x = s, y = s;
      switch (i) {
        case 1: y = s - h; break;
        case 2:
          x = s + wp;
          y = s - h;
          break;
        case 3: x = s + w0; break;
        case 4:
          x = s + w0;
          y = s + hp;
          break;
        case 5:
          x = s + w0 - w;
          y = s + h0;
          break;
        case 6:
          x = s + w0 - wp - w;
          y = s + h0;
          break;
        case 7:
          x = s - w;
          y = s + h0 - h;
          break;
        case 8:
          x = s - w;
          y = s + h0 - hp - h;
          break;
        default: break;
      }
      place(layer, tile, x - border, y - border, canvas);
      wp = w;
      hp = h;
    }
  }

  // Centre, perspective, rotation with zoom, shear, translation: composed right to left.
  void warp(Layer& layer, const Draws& random) const {
    const double s = config_.imgsz;
    const double px = random.uniform(0, -config_.perspective, config_.perspective);
    const double py = random.uniform(1, -config_.perspective, config_.perspective);
    const double angle = random.uniform(2, -config_.degrees, config_.degrees);
    layer.scale = random.uniform(3, config_.scale_min, config_.scale_max);
    const double shear_x = random.uniform(4, -config_.shear, config_.shear);
    const double shear_y = random.uniform(5, -config_.shear, config_.shear);
    const double tx = random.uniform(6, 0.5 - config_.translate, 0.5 + config_.translate) * s;
    const double ty = random.uniform(7, 0.5 - config_.translate, 0.5 + config_.translate) * s;

    constexpr double kRadians = std::numbers::pi / 180.0;
    const double cosine = layer.scale * std::cos(angle * kRadians);
    const double sine = layer.scale * std::sin(angle * kRadians);
    const Matrix3 centre{1, 0, -layer.width / 2.0, 0, 1, -layer.height / 2.0, 0, 0, 1};
    const Matrix3 tilt{1, 0, 0, 0, 1, 0, px, py, 1};
    const Matrix3 rotate{cosine, sine, 0, -sine, cosine, 0, 0, 0, 1};
    const Matrix3 shear{
        1, std::tan(shear_x * kRadians), 0, std::tan(shear_y * kRadians), 1, 0, 0, 0, 1};
    const Matrix3 shift{1, 0, tx, 0, 1, ty, 0, 0, 1};
    const Matrix3 matrix =
        multiply(shift, multiply(shear, multiply(rotate, multiply(tilt, centre))));
    for (int i = 0; i < 9; ++i) layer.matrix[i] = static_cast<float>(matrix[i]);
    layer.perspective = config_.perspective != 0.0;
    invert(layer);
  }

  void mixup() {
    const Draws random = draws(kMixupRatio);
    recipe_.mixup_layer = add_layer(partner(random, 0), kLayerStride);
    // Beta(32, 32) is the middle one of 63 uniform numbers in order (order statistics).
    double unit[63];
    for (std::uint32_t i = 0; i < 63; ++i) unit[i] = random.unit(i + 1);
    std::nth_element(unit, unit + 31, unit + 63);
    recipe_.mixup_ratio = unit[31];
  }

  // A rectangle that hides no object is cut out of another picture (CutMix, Yun et al. 2019). The
  // layer is dropped again when there is no such rectangle, or when it would bring no object.
  void cutmix() {
    const Objects base = picture_objects(plan_, table_);
    const Draws random = draws(kCutmixAreas);
    Box free[3];
    std::uint64_t count = 0;
    for (std::uint32_t i = 0; i < 3; ++i) {
      const Box area = cut_area(random, 8 * i);
      const bool hides = std::any_of(base.list.begin(), base.list.end(), [&](const Object& object) {
        return covered(area, object.box) > 0;
      });
      if (!hides) free[count++] = area;
    }
    if (count == 0) return;
    const Box area = free[random.below(30, count)];
    const std::uint32_t slot = recipe_.mixup_layer == kNoLayer ? kLayerStride : 2 * kLayerStride;
    const int layer = add_layer(partner(random, 31), slot);
    const float threshold = cutmix_threshold(table_, base);
    const Objects others = layer_objects(plan_, layer, table_);
    const bool any = std::any_of(others.list.begin(), others.list.end(), [&](const Object& object) {
      return covered(area, object.box) >= threshold;
    });
    if (!any) return drop_layers(layer);
    recipe_.cutmix_layer = layer;
    recipe_.cut_x1 = static_cast<std::int32_t>(area.x1);
    recipe_.cut_y1 = static_cast<std::int32_t>(area.y1);
    recipe_.cut_x2 = static_cast<std::int32_t>(area.x2);
    recipe_.cut_y2 = static_cast<std::int32_t>(area.y2);
  }

  // Side lengths go with the root of a uniform share (Beta(1, 1)); corners are whole pixels.
  Box cut_area(const Draws& random, std::uint32_t i) const {
    const int width = recipe_.width, height = recipe_.height;
    const double ratio = std::sqrt(1.0 - random.unit(i));
    const int half_width = static_cast<int>(width * ratio) / 2;
    const int half_height = static_cast<int>(height * ratio) / 2;
    const int x = static_cast<int>(random.below(i + 1, static_cast<std::uint64_t>(width)));
    const int y = static_cast<int>(random.below(i + 2, static_cast<std::uint64_t>(height)));
    return {static_cast<float>(std::max(x - half_width, 0)),
            static_cast<float>(std::max(y - half_height, 0)),
            static_cast<float>(std::min(x + half_width, width)),
            static_cast<float>(std::min(y + half_height, height))};
  }

  void colour() {
    if (config_.hsv_h == 0 && config_.hsv_s == 0 && config_.hsv_v == 0) return;
    const Draws random = draws(kHsv);
    recipe_.finish.hsv = hsv_jitter({random.uniform(0, -1, 1) * config_.hsv_h,
                                     random.uniform(1, -1, 1) * config_.hsv_s,
                                     random.uniform(2, -1, 1) * config_.hsv_v});
  }

  const PlanConfig& config_;
  const LabelTable& table_;
  const SampleId id_;
  Plan plan_{empty_recipe(config_.imgsz, config_.imgsz), {}};
  Recipe& recipe_ = plan_.recipe;
};

}  // namespace

std::int64_t image_at(const PlanConfig& config, std::int64_t images, const SampleId& id) {
  check_position(id.position, images);
  if (!config.shuffle) return static_cast<std::int64_t>(id.position);
  const Permutation order(static_cast<std::uint64_t>(images), id.seed, id.epoch);
  return static_cast<std::int64_t>(order(id.position));
}

Plan plan(const PlanConfig& config, const LabelTable& table, const SampleId& id) {
  return Planner(config, table, id).run();
}

void invert(Layer& layer) {
  double m[9];
  std::copy(layer.matrix, layer.matrix + 9, m);
  const double determinant = m[0] * (m[4] * m[8] - m[5] * m[7]) -
                             m[1] * (m[3] * m[8] - m[5] * m[6]) +
                             m[2] * (m[3] * m[7] - m[4] * m[6]);
  const auto fail = [] {
    throw std::invalid_argument(
        "the matrix of a layer cannot be inverted; give a 3x3 matrix that "
        "maps the canvas onto the picture with a determinant other than 0");
  };
  if (determinant == 0 || !std::isfinite(determinant)) fail();
  const double adjugate[9] = {
      m[4] * m[8] - m[5] * m[7], m[2] * m[7] - m[1] * m[8], m[1] * m[5] - m[2] * m[4],
      m[5] * m[6] - m[3] * m[8], m[0] * m[8] - m[2] * m[6], m[2] * m[3] - m[0] * m[5],
      m[3] * m[7] - m[4] * m[6], m[1] * m[6] - m[0] * m[7], m[0] * m[4] - m[1] * m[3]};
  for (int i = 0; i < 9; ++i) {
    layer.inverse[i] = static_cast<float>(adjugate[i] / determinant);
    if (!std::isfinite(layer.inverse[i])) fail();
  }
}

HsvJitter hsv_jitter(const double (&draws)[3]) {
  HsvJitter jitter{};
  std::copy(draws, draws + 3, jitter.draws);
  jitter.enabled = 1;
  const double turn = std::fmod(std::floor(draws[0] * 180.0), 180.0);
  jitter.hue_shift = static_cast<int>(turn < 0 ? turn + 180.0 : turn);
  jitter.saturation = gain(draws[1] + 1.0);
  jitter.value = gain(draws[2] + 1.0);
  return jitter;
}

}  // namespace yolodata
