#include "decoder.h"
#include <fstream>
#include <iterator>
#include <chrono>
#include <functional>
using namespace fastjpeg;
int main(int argc, char** argv) {
  Decompressor lj; 
  std::vector<Bytes> o,t;
  for (int i = 1; i < argc; ++i) {
    std::ifstream f(argv[i], std::ios::binary);
    o.emplace_back(std::istreambuf_iterator<char>(f), std::istreambuf_iterator<char>());
    t.push_back(transcode(o.back()));
  }
  Picture p;
  std::vector<std::pair<std::string,std::function<void(size_t)>>> v;
  v.push_back({"libjpeg orig",[&](size_t i){libjpeg_decode(lj,o[i],p);}});
  v.push_back({"libjpeg transc",[&](size_t i){libjpeg_decode(lj,t[i],p);}});
  auto d1=std::make_shared<Decoder>(1);
  v.push_back({"orig 1 lane",[&,d1](size_t i){d1->decode(o[i],p);}});
  v.push_back({"orig 1 lane coefs",[&,d1](size_t i){d1->decode(o[i],p,Until::kCoefficients);}});
  v.push_back({"transc unstuff",[&,d1](size_t i){d1->decode(t[i],p,Until::kUnstuffed);}});
  for(int n:{1,2,3,4,6,8}){auto d=std::make_shared<Decoder>(n);
  v.push_back({"transc lanes "+std::to_string(n),[&,d](size_t i){d->decode(t[i],p);}});
  v.push_back({"  coefs "+std::to_string(n),[&,d](size_t i){d->decode(t[i],p,Until::kCoefficients);}});}
  std::vector<std::vector<double>> ms(v.size());
  for(int r=0;r<7;r++) for(size_t k=0;k<v.size();k++){auto a=std::chrono::steady_clock::now(); for(size_t i=0;i<o.size();i++) v[k].second(i); ms[k].push_back(std::chrono::duration<double>(std::chrono::steady_clock::now()-a).count()*1e3/o.size());}
  double base=0;
  for(size_t k=0;k<v.size();k++){std::sort(ms[k].begin(),ms[k].end()); if(!k)base=ms[0][3]; printf("%-20s %.3f (%.3f..%.3f)  %.2fx\n",v[k].first.c_str(),ms[k][3],ms[k][0],ms[k][6],base/ms[k][3]);}
}
