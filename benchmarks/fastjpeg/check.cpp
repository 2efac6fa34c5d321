#include "decoder.h"
#include <fstream>
#include <iterator>
using namespace fastjpeg;
int main(int argc, char** argv) {
  Decompressor lj; Decoder one(1), four(4);
  int n = 0, bad = 0, fb = 0; size_t a = 0, b = 0;
  for (int i = 1; i < argc; ++i) {
    std::ifstream f(argv[i], std::ios::binary);
    Bytes file{std::istreambuf_iterator<char>(f), std::istreambuf_iterator<char>()};
    Picture want, got; libjpeg_decode(lj, file, want);
    Bytes t = transcode(file); a += file.size(); b += t.size();
    if (coefficients(file) != coefficients(t)) { ++bad; printf("coef %s\n", argv[i]); }
    if (!one.decode(file, got)) ++fb; else if (got.bgr != want.bgr) { ++bad; if(bad<5) printf("one %s\n", argv[i]); }
    if (!four.decode(t, got)) {++fb; printf("fb4 %s\n", argv[i]);} else if (got.bgr != want.bgr) { ++bad;  if(bad<5){size_t j=0;while(got.bgr[j]==want.bgr[j])j++; printf("four %s %d %d first %zu\n", argv[i],want.width,want.height,j);} }
    ++n;
  }
  printf("%d files, %d bad, %d fallback, size ratio %.4f\n", n, bad, fb, double(b) / a);
}
