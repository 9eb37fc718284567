"""BibTeX of the papers behind each system: `print(cite("implicit_deformation"))`."""

from __future__ import annotations

from jaxrecon.errors import InputError

_IMPLICIT_DEFORMATION = """@article{li2022implicit,
  title   = {Implicit Neural Deformation for Sparse-View Face Reconstruction},
  author  = {Li, Moran and Huang, Haibin and Zheng, Yi and Li, Mengtian and Sang, Nong and
             Ma, Chongyang},
  journal = {Computer Graphics Forum (Pacific Graphics)},
  volume  = {41},
  number  = {7},
  year    = {2022}
}"""

_I3DMM = """@inproceedings{yenamandra2021i3dmm,
  title     = {i3DMM: Deep Implicit 3D Morphable Model of Human Heads},
  author    = {Yenamandra, Tarun and Tewari, Ayush and Bernard, Florian and Seidel, Hans-Peter and
               Elgharib, Mohamed and Cremers, Daniel and Theobalt, Christian},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {12803--12813},
  year      = {2021}
}"""

_IDR = """@inproceedings{yariv2020multiview,
  title     = {Multiview Neural Surface Reconstruction by Disentangling Geometry and Appearance},
  author    = {Yariv, Lior and Kasten, Yoni and Moran, Dror and Galun, Meirav and
               Atzmon, Matan and Basri, Ronen and Lipman, Yaron},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {33},
  pages     = {2492--2502},
  year      = {2020}
}"""

_PIFU = """@inproceedings{saito2019pifu,
  title     = {PIFu: Pixel-Aligned Implicit Function for High-Resolution Clothed Human
               Digitization},
  author    = {Saito, Shunsuke and Huang, Zeng and Natsume, Ryota and Morishima, Shigeo and
               Kanazawa, Angjoo and Li, Hao},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  pages     = {2304--2314},
  year      = {2019}
}"""

_PAMIR = """@article{zheng2022pamir,
  title   = {PaMIR: Parametric Model-Conditioned Implicit Representation for Image-Based Human
             Reconstruction},
  author  = {Zheng, Zerong and Yu, Tao and Liu, Yebin and Dai, Qionghai},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume  = {44},
  number  = {6},
  pages   = {3170--3184},
  year    = {2022},
  doi     = {10.1109/TPAMI.2021.3050505}
}"""

_JIFF = """@inproceedings{cao2022jiff,
  title     = {JIFF: Jointly-Aligned Implicit Face Function for High Quality Single View Clothed
               Human Reconstruction},
  author    = {Cao, Yukang and Chen, Guanying and Han, Kai and Yang, Wenqi and
               Wong, Kwan-Yee K.},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {2729--2739},
  year      = {2022}
}"""

_PIXEL2ISDF = """@misc{chen2022pixel2isdf,
  title         = {Pixel2ISDF: Implicit Signed Distance Fields based Human Body Model from
                   Multi-view and Multi-pose Images},
  author        = {Chen, Jianchuan and Yi, Wentao and Wang, Tiantian and Li, Xing and
                   Ma, Liqian and Fan, Yangyu and Lu, Huchuan},
  year          = {2022},
  eprint        = {2212.02765},
  archivePrefix = {arXiv}
}"""

_SARS = """@misc{khan2026sars,
  title         = {SARS: A Novel Face and Body Shape and Appearance Aware 3D Reconstruction System
                   extends Morphable Models},
  author        = {Khan, Gulraiz and Wertheim, Kenneth Y. and Pimbblet, Kevin and Ahmed, Waqas},
  year          = {2026},
  eprint        = {2602.09918},
  archivePrefix = {arXiv}
}"""

_PAPERS = {
    "implicit_deformation": (_IMPLICIT_DEFORMATION, _I3DMM, _IDR),
    "jiff": (_JIFF, _PIFU),
    "pamir": (_PAMIR, _PIFU),
    "pifu": (_PIFU,),
    "pixel2isdf": (_PIXEL2ISDF,),
    "sars": (_SARS,),
    "i3dmm": (_I3DMM,),
    "idr": (_IDR,),
}

SYSTEMS = tuple(_PAPERS)
"""What `cite` knows: the six systems, and two ancestors."""


def cite(system: str) -> str:
    """BibTeX entries to cite for a system: its paper first, then those it builds on.

    Raises:
        InputError: the name is not one of `SYSTEMS`.
    """
    papers = _PAPERS.get(system.lower().replace("-", "_"))
    if papers is None:
        raise InputError(f"no system is called {system!r}", expected=", ".join(SYSTEMS))
    return "\n\n".join(papers)
