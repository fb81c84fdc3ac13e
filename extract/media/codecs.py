"""The codings of picture and sound that are read, by the names of FFmpeg's decoders; a file in another one is refused.

They are those that cameras, recorders, phones, broadcasts and web sites have used. Left out are what no recording is
kept in: text and animation formats of games, screen captures of one program, and single pictures.
"""

_PICTURE = """
h264 hevc vvc av1 libdav1d vp8 libvpx vp9 libvpx-vp9 vp3 vp4 vp5 vp6 vp6a vp6f vp7 theora dirac cavs
mpeg1video mpeg2video mpegvideo mpeg4 msmpeg4 msmpeg4v1 msmpeg4v2 h261 h263 h263i h263p flv
wmv1 wmv2 wmv3 vc1 rv10 rv20 rv30 rv40 rv60 svq1 svq3 snow
cinepak indeo2 indeo3 indeo4 indeo5 msvideo1 rpza smc qtrle asv1 asv2
mjpeg mjpegb jpeg2000 dvvideo prores dnxhd cfhd
ffv1 ffvhuff huffyuv utvideo magicyuv lagarith rawvideo v210 v308 v408 v410 yuv4
"""
_SOUND = """
aac aac_fixed aac_latm libfdk_aac mp1 mp1float mp2 mp2float mp3 mp3float mp3adu mp3adufloat mp3on4 mp3on4float
ac3 ac3_fixed eac3 dca truehd mlp vorbis libvorbis opus libopus speex libspeex flac alac
wmav1 wmav2 wmapro wmalossless wmavoice cook sipr real_144 real_288 ralf atrac1 atrac3 atrac3al atrac3plus
atrac3plusal atrac9 amrnb amrwb libopencore_amrnb libopencore_amrwb gsm gsm_ms ilbc qcelp evrc
wavpack ape tta tak als shorten mpc7 mpc8 qdm2 qdmc imc on2avc nellymoser metasound twinvq mace3 mace6
g722 g723_1 g726 g726le g729 adpcm_ms adpcm_ima_wav adpcm_ima_qt adpcm_swf adpcm_yamaha adpcm_adx dvaudio s302m
pcm_alaw pcm_mulaw pcm_bluray pcm_dvd pcm_lxf pcm_s8 pcm_s8_planar pcm_u8
pcm_s16be pcm_s16be_planar pcm_s16le pcm_s16le_planar pcm_u16be pcm_u16le
pcm_s24be pcm_s24daud pcm_s24le pcm_s24le_planar pcm_u24be pcm_u24le
pcm_s32be pcm_s32le pcm_s32le_planar pcm_u32be pcm_u32le
pcm_f16le pcm_f24le pcm_f32be pcm_f32le pcm_f64be pcm_f64le
"""
PICTURE_CODECS, SOUND_CODECS = frozenset(_PICTURE.split()), frozenset(_SOUND.split())
