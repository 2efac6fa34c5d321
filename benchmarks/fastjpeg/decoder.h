// Bytes of a baseline JPEG file to BGR pixels, equal to libjpeg-turbo's.
#pragma once

#include "entropy.h"
#include "libjpeg.h"
#include "reconstruct.h"

namespace fastjpeg {

enum class Until { kUnstuffed, kCoefficients, kPixels };

class Decoder {
 public:
  static constexpr int kMaxLanes = 16;

  explicit Decoder(int lanes) : max_lanes_(lanes) {}

  // False if the file is not of the kind that this decoder takes, or damaged: libjpeg decodes it
  // then, and says what is wrong. What is taken: 8 bits, one baseline Huffman scan, YCbCr as 4:4:4
  // or 4:2:0, no restart intervals or one for each row of MCUs.
  bool decode(const Bytes& file, Picture& picture, Until until = Until::kPixels) {
    if (!header_.read_header(file.data(), file.size()) || !plan()) return false;
    const jpeg_source_mgr& source = *header_.info.src;
    if (!scan_.unstuff(source.next_input_byte, source.next_input_byte + source.bytes_in_buffer)) {
      return false;
    }
    const bool restarts = header_.info.restart_interval != 0;
    if (scan_.intervals.size() != size_t(restarts ? mcu_rows_ : 1)) return false;
    if (until == Until::kUnstuffed) return true;
    picture.resize(int(header_.info.image_width), int(header_.info.image_height));
    const int group = restarts ? max_lanes_ : 1;
    next_row_ = 0;
    if (!restarts) lanes_[0].start(scan_, 0);
    std::fill(prediction_, prediction_ + 3, 0);
    for (int first = 0; first < mcu_rows_; first += group) {
      const int n = std::min(group, mcu_rows_ - first);
      for (int i = 0; i < n; ++i) {
        if (restarts) lanes_[i].start(scan_, size_t(first + i));
        std::memset(row_coefficients(i), 0, row_blocks_ * kBlock * sizeof(int16_t));
        lanes_[i].aim(script_, size_t(i) * (row_blocks_ + 1));
      }
      if (!decode_lanes(lanes_, n, script_, coefficients_.data())) return false;
      if (until == Until::kCoefficients) continue;
      for (int i = 0; i < n; ++i) {
        if (restarts) std::fill(prediction_, prediction_ + 3, 0);
        add_predictions(row_coefficients(i));
        transform_row(first + i, row_coefficients(i));
        colour_rows(first + i, picture);
      }
    }
    return true;
  }

 private:
  struct Component {
    int h, v, first;  // blocks of an MCU across and down, the first one's place in it
    ptrdiff_t stride;
    Bytes plane;
    QuantRows quant;
  };

  int16_t* row_coefficients(int lane) {
    return coefficients_.data() + kBlock * (row_blocks_ + 1) * size_t(lane);
  }

  static HuffmanCode code_of(const JHUFF_TBL& table) {
    HuffmanCode code;
    std::memcpy(code.count, table.bits, sizeof code.count);
    std::memcpy(code.symbol, table.huffval, sizeof code.symbol);
    code.count[0] = 0;
    return code;
  }

  // Tables, layout and room for the file whose header was read; false if it is of another kind.
  bool plan() {
    const jpeg_decompress_struct& info = header_.info;
    const bool kind = info.data_precision == 8 && !info.progressive_mode && !info.arith_code &&
                      info.num_components == 3 && info.comps_in_scan == 3 &&
                      info.jpeg_color_space == JCS_YCbCr && info.Ss == 0 && info.Se == 63 &&
                      info.Ah == 0 && info.Al == 0;
    if (!kind) return false;
    const int h = info.comp_info[0].h_samp_factor, v = info.comp_info[0].v_samp_factor;
    for (int c = 0; c < 3; ++c) {
      if (info.cur_comp_info[c] != &info.comp_info[c]) return false;
      if (c > 0 && (info.comp_info[c].h_samp_factor != 1 || info.comp_info[c].v_samp_factor != 1))
        return false;
    }
    if (h != v || h > 2 || (h == 2 && info.image_width < 5)) return false;
    doubled_ = h == 2;
    mcus_ = int(info.image_width + 8u * h - 1) / (8 * h);
    mcu_rows_ = int(info.image_height + 8u * v - 1) / (8 * v);
    if (info.restart_interval != 0 && int(info.restart_interval) != mcus_) return false;

    mcu_blocks_ = 0;
    Script::Pair pair_of[6];
    for (int c = 0; c < 3; ++c) {
      const jpeg_component_info& from = info.comp_info[c];
      const JHUFF_TBL* dc = info.dc_huff_tbl_ptrs[from.dc_tbl_no & 3];
      const JHUFF_TBL* ac = info.ac_huff_tbl_ptrs[from.ac_tbl_no & 3];
      const JQUANT_TBL* quant = info.quant_tbl_ptrs[from.quant_tbl_no & 3];
      if (dc == nullptr || ac == nullptr || quant == nullptr) return false;
      Table& dc_table = tables_of_[from.dc_tbl_no & 3];
      Table& ac_table = tables_of_[4 + (from.ac_tbl_no & 3)];
      if (!(dc_table.code == code_of(*dc)) && !dc_table.build(code_of(*dc), true)) return false;
      if (!(ac_table.code == code_of(*ac)) && !ac_table.build(code_of(*ac), false)) return false;

      Component& to = components_[c];
      to.h = from.h_samp_factor;
      to.v = from.v_samp_factor;
      to.first = mcu_blocks_;
      to.stride = (mcus_ * to.h * 8 + 15) / 16 * 16;
      to.plane.resize(size_t(to.stride) * size_t(mcu_rows_ * to.v * 8) + 64);
      to.quant.set(quant->quantval);
      for (int b = 0; b < to.h * to.v; ++b, ++mcu_blocks_) {
        pair_of[mcu_blocks_] = {dc_table.entry, ac_table.entry};
        component_of_[mcu_blocks_] = c;
      }
    }
    row_blocks_ = size_t(mcus_) * size_t(mcu_blocks_);
    const size_t lanes = info.restart_interval != 0 ? size_t(max_lanes_) : 1;
    const size_t blocks = (row_blocks_ + 1) * lanes;
    script_.pairs.clear();
    for (size_t lane = 0; lane < lanes; ++lane) {
      for (int mcu = 0; mcu < mcus_; ++mcu) {
        script_.pairs.insert(script_.pairs.end(), pair_of, pair_of + mcu_blocks_);
      }
      script_.pairs.push_back({script_.hold.data(), script_.hold.data()});
    }
    script_.pairs.push_back(script_.pairs.back());
    if (coefficients_.size() < (blocks + 1) * kBlock) coefficients_.resize((blocks + 1) * kBlock);
    const size_t chroma_row = size_t(components_[1].stride) * 2 + 64;
    sums_.resize(chroma_row);
    for (Bytes& row : upsampled_) row.resize(chroma_row);
    return true;
  }

  void add_predictions(int16_t* blocks) {
    for (int m = 0; m < mcus_; ++m) {
      for (int b = 0; b < mcu_blocks_; ++b, blocks += kBlock) {
        int& prediction = prediction_[component_of_[b]];
        blocks[0] = int16_t(prediction += blocks[0]);
      }
    }
  }

  void transform_row(int mcu_row, const int16_t* blocks) {
    for (Component& c : components_) {
      const int width = mcus_ * c.h;
      for (int v = 0; v < c.v; ++v) {
        uint8_t* to = c.plane.data() + ptrdiff_t(mcu_row * c.v + v) * 8 * c.stride;
        const auto place = [&](int x) {
          return (c.h == 2 ? x >> 1 : x) * mcu_blocks_ + c.first + v * c.h + (c.h == 2 ? x & 1 : 0);
        };
        for (int x = 0; x < width; x += 2) {
          const int left = place(x), right = place(x + 1 < width ? x + 1 : x);
          inverse_transform(blocks + left * kBlock, blocks + right * kBlock, c.quant, to + 8 * x,
                            c.stride);
        }
      }
    }
  }

  // Rows of pixels that can be made once this row of MCUs is there: with 4:2:0 all but the last,
  // which needs a row of chroma from the next.
  void colour_rows(int mcu_row, Picture& picture) {
    const bool end = mcu_row + 1 == mcu_rows_;
    const int ready = (mcu_row + 1) * components_[0].v * 8 - (doubled_ ? 1 : 0);
    const int until = end ? picture.height : ready;
    const Component &y = components_[0], &cb = components_[1], &cr = components_[2];
    const int chroma_height = (picture.height + 1) / 2, chroma_width = (picture.width + 1) / 2;
    for (; next_row_ < until; ++next_row_) {
      const uint8_t* luma = y.plane.data() + next_row_ * y.stride;
      uint8_t* to = picture.bgr.data() + size_t(next_row_) * size_t(picture.width) * 3;
      if (!doubled_) {
        colour_row(luma, cb.plane.data() + next_row_ * cb.stride,
                   cr.plane.data() + next_row_ * cr.stride, picture.width, to);
        continue;
      }
      const int near = next_row_ / 2;
      const int far = std::clamp(near + (next_row_ & 1 ? 1 : -1), 0, chroma_height - 1);
      upsample_2x2(cb.plane.data() + near * cb.stride, cb.plane.data() + far * cb.stride,
                   chroma_width, sums_.data(), upsampled_[0].data());
      upsample_2x2(cr.plane.data() + near * cr.stride, cr.plane.data() + far * cr.stride,
                   chroma_width, sums_.data(), upsampled_[1].data());
      colour_row(luma, upsampled_[0].data(), upsampled_[1].data(), picture.width, to);
    }
  }

  int max_lanes_;
  Decompressor header_;
  Scan scan_;
  Table tables_of_[8];  // four for DC, four for AC
  Script script_;
  int mcu_blocks_ = 0, component_of_[6], prediction_[3];
  Lane lanes_[kMaxLanes];
  Component components_[3];
  bool doubled_ = false;
  int mcus_ = 0, mcu_rows_ = 0, next_row_ = 0;
  size_t row_blocks_ = 0;
  std::vector<int16_t> coefficients_, sums_;
  Bytes upsampled_[2];
};

}  // namespace fastjpeg
